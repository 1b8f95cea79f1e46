"""Networks that were trained on other images than those at hand, and what every feature network is."""
