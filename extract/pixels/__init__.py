"""From decoded frames to what a network sees: streams, cutting, colours, small pictures for pages."""
