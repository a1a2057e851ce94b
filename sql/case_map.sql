-- What lower() makes of each character, where that is another; $1: the last one.
SELECT chr(i) AS upper, lower(chr(i)) AS lower
FROM generate_series(1, $1::int) i
WHERE i NOT BETWEEN 55296 AND 57343  -- surrogates are no characters
  AND lower(chr(i)) <> chr(i);
