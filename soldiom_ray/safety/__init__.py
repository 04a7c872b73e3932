"""What a deployed model is asked and answers, checked: rules and classifiers that block, mask or flag."""
