"""Stage `study`: many models of one archive, played alike, in one table and one figure."""
