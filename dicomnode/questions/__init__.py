"""Stored SRs that ask: answers (`keeper`), objects made of them (`results`), and those sent to peers (`delivery`)."""
