"""What is behind `ibtpo compare` and `ibtpo diagnose`.

Branching rules and training methods are held side by side at equal numbers of generated tokens (`branching`,
`training` and their kin), and one run is measured over its checkpoints or from its logged answers (`checkpoints`,
`flat_logs`).
"""
