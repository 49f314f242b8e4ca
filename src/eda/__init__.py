"""What notebooks 2.0 and 3.0 show of the data: files, colours, copies, hides and the masks of defects."""
