"""What a result contains: records, the report, its schema, verification of saved reports."""
