"""From photographs of anybody's leather to a report that a person acts on. The only room that knows all others."""
