<?php
$rows = [];
for ($i = 0; $i < 50000; $i++) $rows[] = "row $i";
echo count($rows);
