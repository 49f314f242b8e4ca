"""What made the shipped weights; nobody needs it to use the project."""
