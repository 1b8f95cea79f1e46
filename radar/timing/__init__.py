"""How long sampling and training take, and how long they must take at least on this device."""
