"""Answers to questions: tasks, protocol, servers, record, letters, scores and paired statistics."""
