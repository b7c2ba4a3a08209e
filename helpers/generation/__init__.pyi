from .chat import Chat, transcript
from .prompts import END_OF_TURN, chat_prompt, instruction_prompt, question_prompt
from .sampling import Sampling, logits_processors, stream, stream_text
from .serve import serving

__all__ = [
    "END_OF_TURN",
    "Chat",
    "Sampling",
    "chat_prompt",
    "instruction_prompt",
    "logits_processors",
    "question_prompt",
    "serving",
    "stream",
    "stream_text",
    "transcript",
]
