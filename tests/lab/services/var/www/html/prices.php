<?php
header("Worker: " . getmypid());
$prices = [];
for ($number = 0; $number < 20000; $number++) {
    $prices["article $number"] = $number * 7919 % 10007 / 100;
}
echo json_encode(array_slice($prices, (int)($_GET["first"] ?? 0), 100));
