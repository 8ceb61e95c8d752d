DROP INDEX chunks_fallback;
