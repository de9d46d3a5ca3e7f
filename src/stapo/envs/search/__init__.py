"""Questions that are answered with a search engine: protocols, scoring, questions, a generated world."""
