"""Answers to questions: protocol, record, letters, scores and paired statistics."""
