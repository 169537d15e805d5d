"""One module a command: its options and the one public function it calls."""
