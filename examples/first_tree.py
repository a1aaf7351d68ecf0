"""Grows one tree of the embedded model and prints the path to its best answer."""

# --8<-- [start:code]
import asyncio

import ibtpo

model, tokenizer = ibtpo.load_model("nano")
problem = ibtpo.load_problems("walk:test", limit=1)[0]
text, ids = ibtpo.encode_prompt(problem, tokenizer)
prompt = ibtpo.Prompt(problem.id, tuple(ids), text, problem.columns)

engine = ibtpo.TransformersEngine(model, eos_token_ids=[tokenizer.eos_token_id])
verifier = ibtpo.VerifierPool("walk")


def decode(ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


search = ibtpo.TreeSearch(engine, verifier, decode, ibtpo.SearchOptions(seed=1))
tree = asyncio.run(search.grow(prompt))

scores = ibtpo.score_tree(tree)
print(text + f"{len(tree.leaves)} answers for {tree.generated_tokens} tokens")
for node in tree.path(max(tree.leaves, key=lambda leaf: leaf.reward).node):
    print(f"p̂ {scores.p_hat[node]:.2f}  IB-Score {scores.ib_score[node]:+.2f}  {tree.nodes[node].step.text.strip()}")
# --8<-- [end:code]
