"""The report page: records, sections and charts."""
