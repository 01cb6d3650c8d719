"""A server of a policy for commands that are disturbed: prints its address, and serves until it is ended.

python -m faults.stand_in POLICY     (with tests/ on the path)
"""

import sys
import time

from transformers import AutoModelForCausalLM, AutoTokenizer

from doubles.servers import StandIn, serving

if __name__ == "__main__":
    folder = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder)
    with serving(StandIn(policy, tokenizer, "vllm", "policy", ends=(tokenizer.eos_token_id,))) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        while True:
            time.sleep(60)
