"""Questions in, answers out, whoever asks: identifiers and ROIs become matches and hits. Knows no network."""
