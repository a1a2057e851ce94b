-- The shop of `pgconcord demo`: the same tables and rows on both sides.

CREATE TABLE customer (
    id        uuid        PRIMARY KEY,
    email     text        NOT NULL UNIQUE,
    name      text        NOT NULL,
    joined_at timestamptz NOT NULL
);

CREATE TABLE inventory (
    sku   text           PRIMARY KEY,
    title text           NOT NULL,
    price numeric(10, 2) NOT NULL,
    stock integer        NOT NULL
);

CREATE TABLE orders (
    id        uuid        PRIMARY KEY,
    customer  uuid        NOT NULL REFERENCES customer (id),
    placed_at timestamptz NOT NULL,
    status    text        NOT NULL
);

CREATE TABLE order_line (
    order_id uuid           NOT NULL REFERENCES orders (id),
    line     integer        NOT NULL,
    sku      text           NOT NULL REFERENCES inventory (sku),
    quantity integer        NOT NULL,
    price    numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

CREATE TABLE cart (
    customer uuid  PRIMARY KEY REFERENCES customer (id),
    items    jsonb NOT NULL
);

CREATE TABLE deal_of_the_hour (
    hour    integer PRIMARY KEY,
    sku     text    NOT NULL REFERENCES inventory (sku),
    percent integer NOT NULL
);

INSERT INTO customer
SELECT md5('customer ' || i)::uuid, 'customer' || i || '@example.org', 'Customer ' || i, '2024-01-01'
FROM generate_series(1, 200) AS i;

INSERT INTO inventory
SELECT 'TEA-' || lpad(i::text, 2, '0'), 'Tea no. ' || i, 3 + i / 4.0, 1000
FROM generate_series(1, 40) AS i;

INSERT INTO cart
SELECT id, '[]' FROM customer;
