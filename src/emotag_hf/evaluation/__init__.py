"""How good a rendered head is: pictures against their truth, and reports of it (METHOD 7)."""
