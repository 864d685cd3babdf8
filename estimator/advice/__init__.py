"""What follows from a prediction: who shares with whom, plan, settings, risk, comparison."""
