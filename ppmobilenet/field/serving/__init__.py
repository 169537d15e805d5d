"""A package behind HTTP: answers for photos that are sent, and a page to send them from (``ppmobilenet serve``)."""
