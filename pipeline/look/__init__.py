"""The one look of everything that people read: colours, style, tables and figures of report page, serve page and lists.

Here and not in `probe` or `flows`, since both make pages. Plain text and templates: nothing here knows what is shown.
"""
