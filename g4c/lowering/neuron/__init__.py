"""IR -> StableHLO -> HLO protos for neuronx-cc, finished and linted."""
