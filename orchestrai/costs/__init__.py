"""What was spent, saved and waited for: the ledger mirrored into DuckDB, asked in one call, drawn in one plot."""
