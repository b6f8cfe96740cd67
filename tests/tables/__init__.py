"""Tests of logs in and out."""
