"""What tests share. Look here before writing a fixture; import from the module itself.

trees               small trees with every score worked out by hand, and a verifier made of functions
laws                the laws that every tree obeys
searches            a scripted model, and searches with it
engine_models       random models of every supported family, and checks of an engine's log-probabilities
tiny_model          a random model with a tokenizer, saved to a folder
fake_server         a server that speaks the HTTP of vLLM and SGLang
report_runs         run folders whose numbers are known
view_pages          trees with awkward texts, and a reader of the viewer's pages
malformed_cases     the table of malformed inputs and the error each must give
malformed_place     the folder they run in, and the check of the error
malformed_verifiers reward functions that misbehave
places              where the checkout and its golden files are
"""
