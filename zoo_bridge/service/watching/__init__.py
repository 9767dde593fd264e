"""What is watched while nobody looks: what is wrong, who is told, health and metrics."""
