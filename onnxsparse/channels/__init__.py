"""Channel pruning: groups of channels that are cut together, the choice among them, the cut, and its proof.

1. `discovery` labels every axis and asks each op which labels it ties.
2. `grids` and `groups` turn the labels into groups of channels that can be cut independently.
3. `importance` and `selection` choose channels.
4. `cut` removes them.
5. `reference` and `proof` check the result in onnxruntime.
"""
