"""A synthetic competition in the official layout."""

from phantom.files import write as write
