"""Policies: what turns scores, popularity or nothing at all into distributions over slates."""
