"""The order explorer: a page that shows what orders and attention variants do, from data that the library computes."""
