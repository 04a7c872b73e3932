"""Run the `compress` heading of a recipe: ray job submit --working-dir . -- python jobs/compress.py RECIPE.yaml"""

import sys

from soldiom_ray.flow import main

if __name__ == "__main__":
    sys.exit(main("compress"))
