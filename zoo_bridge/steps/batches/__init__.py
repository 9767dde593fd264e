"""Upload's workshop: choosing, drawing, looking, staging; and what is done with a batch later."""
