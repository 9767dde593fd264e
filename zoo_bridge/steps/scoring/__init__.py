"""Score's workshop: the recipe, the parts of a scoring under way, the catalogue as a whole."""
