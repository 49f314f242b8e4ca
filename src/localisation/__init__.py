"""Shows where the defect is, by the distance of patch tokens to those of normal pictures; no classifier is needed."""
