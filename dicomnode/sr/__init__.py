"""Structured reports: regions in (`reader`), regions out (`writer`)."""
