"""Tests of HOC Spine."""
