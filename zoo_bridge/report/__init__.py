"""What people look at and take away: figures, self-contained pages, tables in many formats."""
