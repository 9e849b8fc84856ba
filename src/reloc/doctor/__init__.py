"""Is this data sound?"""
