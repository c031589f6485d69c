"""The stage `pretrain`: a network learns from clips, which someone else decodes, by the objectives of this package."""
