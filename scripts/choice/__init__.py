"""The statistics, the criteria that rank experts by them, and the drop map."""
