"""One file for each thing that there is to see."""
