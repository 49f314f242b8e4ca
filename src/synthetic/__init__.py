"""What a program draws: leather, defects painted on any picture of leather, and the built-in sample."""
