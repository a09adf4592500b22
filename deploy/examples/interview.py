"""Make an article of a recorded interview: ``python interview.py --audio interview.wav``.

Three steps, each by the model that suits it: transcribe, extract the facts by a JSON schema, write. All go through one
base URL with one W3C ``traceparent``, so that Tollway can say at the end what each step and the whole have cost. The
key is read from OPENAI_API_KEY; a gateway without keys takes any. ``interview.yaml`` has models to run it with.
"""

import argparse
import json
import os
import secrets
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError

FACTS = {
    "type": "object",
    "properties": {
        "speaker": {"type": "string", "maxLength": 80},
        "topic": {"type": "string", "maxLength": 120},
        # Bounded, since a small model that is held to a schema may otherwise never come to its end.
        "statements": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 200}},
    },
    "required": ["speaker", "topic", "statements"],
    "additionalProperties": False,
}


def main() -> None:
    """Run the three steps, and print what came of them and what they cost."""
    parser = argparse.ArgumentParser(description="make an article of a recorded interview")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--audio", type=Path, required=True, help="a recording: WAV, MP3, FLAC, ...")
    parser.add_argument("--transcriber", default="whisper", help="a model or route")
    parser.add_argument("--extractor", default="smollm2", help="a model or route that keeps to a JSON schema")
    parser.add_argument("--writer", default="smollm2", help="a model or route")
    args = parser.parse_args()
    trace_id = secrets.token_hex(16)
    traceparent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    key = os.environ.get("OPENAI_API_KEY", "unused")
    with OpenAI(base_url=args.base_url, api_key=key, default_headers={"traceparent": traceparent}) as client:
        try:
            transcript = client.audio.transcriptions.create(model=args.transcriber, file=args.audio).text
            print(f"Transcript: {transcript}\n")
            facts = extract(client, args.extractor, transcript)
            print(f"Facts: {json.dumps(facts, ensure_ascii=False, indent=2)}\n")
            print(f"Article: {write(client, args.writer, facts)}\n")
        finally:
            print_bill(client, trace_id)


def extract(client: OpenAI, model: str, transcript: str) -> dict[str, Any]:
    """Return the interview's facts as the schema has them."""
    answer = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": "Extract who speaks, about what, and the main statements. Answer in JSON."},
            {"role": "user", "content": transcript},
        ],
        response_format={"type": "json_schema", "json_schema": {"name": "interview", "schema": FACTS}},
        max_completion_tokens=1000,
        temperature=0,
    )
    facts: dict[str, Any] = json.loads(answer.choices[0].message.content or "")
    return facts


def write(client: OpenAI, model: str, facts: dict[str, Any]) -> str:
    """Return a short article about the facts."""
    answer = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": "Write a short article of one paragraph. Use these facts and no others."},
            {"role": "user", "content": json.dumps(facts, ensure_ascii=False)},
        ],
        max_completion_tokens=300,
    )
    return answer.choices[0].message.content or ""


def print_bill(client: OpenAI, trace_id: str) -> None:
    """Print what each step of the trace, and all of it, cost; after a failure, what was spent until then."""
    print(f"Trace {trace_id}")
    try:
        trace: Any = client.get(f"/traces/{trace_id}", cast_to=object)
    except OpenAIError as error:
        print(f"not known: {error}")
        return
    for call in trace["calls"]:
        step = f"{call['operation']:15} {call['model']} -> {call['target']}: {call['outcome']}"
        speech_s = call["usage"]["audio_ms"] / 1000
        print(f"{step}, {speech_s:.1f} s of speech, {call['total_tokens']} tokens, ${call['cost_usd']}")
    print(f"{'total':15} {trace['call_count']} calls, {trace['total_tokens']} tokens, ${trace['cost_usd']}")


if __name__ == "__main__":
    main()
