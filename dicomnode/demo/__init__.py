"""Films in (drawn ones, or your own), a running node asked about one region, a table and a picture out."""
