"""Request bodies checked by the rules of Create Chat Completion, with the words of OpenAI."""
