"""Pictures on disk: the one reader, tables of pictures with their splits, and how the published sets get here."""
