"""The plugin for verl: our environments, credit, flags and losses in its Ray, FSDP2 and vLLM machinery.

What another engine must not change is computed by the functions that the embedded engine calls: rows become a
`stapo.training.batch.RowBatch`, the loss is that of `stapo.algo`. Modules that import verl are `agent_loop`, `trainer`,
`engine`, `loss` and `register`; everything else, and so `import stapo.verl_plugin`, works without it.
"""
