"""The evaluation: scenarios, policies and what their figures say."""
