"""An engine: the plainest loop that samples from a Hugging Face model, one token at a time, nothing kept."""

import torch

import ibtpo


class PlainEngine(ibtpo.Engine):
    """Asks the model anew for every token: slow, short, and right."""

    def __init__(self, model, eos_token_id):
        self.model = model
        self.eos_token_id = eos_token_id

    async def generate(self, prompt_ids, sampling, seed, max_new_tokens):
        """One continuation of `prompt_ids`; it must depend on the arguments alone."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        ids, logprobs, entropies = list(prompt_ids), [], []
        while len(logprobs) < max_new_tokens:
            with torch.no_grad():
                logits = self.model(torch.tensor([ids], device=self.model.device)).logits[0, -1]
            # Reported are the full softmax's values at the temperature; top-p and top-k only limit what is drawn.
            log_p = (logits.float().cpu() / sampling.temperature).log_softmax(-1)
            token = int(torch.multinomial(kept(log_p.exp(), sampling), 1, generator=generator))
            ids.append(token)
            logprobs.append(float(log_p[token]))
            entropies.append(float(-(log_p.exp() * log_p).sum()))
            if token == self.eos_token_id:
                break
        stop = "eos" if ids[-1] == self.eos_token_id else "length"
        return ibtpo.Completion(ids[len(prompt_ids) :], logprobs, entropies, stop)


def kept(p, sampling):
    """The probabilities of the top_k most likely tokens, and of those the fewest that reach top_p; 0 elsewhere."""
    order = p.argsort(descending=True)[: sampling.top_k or None]
    before = p[order].cumsum(0) - p[order]  # the share of what is more likely
    order = order[before < sampling.top_p * p[order].sum()]
    return torch.zeros_like(p).index_put((order,), p[order])


def open_engine(model, tokenizer, *, max_in_flight):
    """The factory: what `--engine my_engine:open_engine` names. max_in_flight: requests at once, at most."""
    return PlainEngine(model, tokenizer.eos_token_id)
